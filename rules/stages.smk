# From images to measurements: one rule per stage, of one shape. What each reads, writes and needs is
# declared in diffusability/study/planning/stages.py, and for metrics in diffusability/study/metrics/groups.py.
from diffusability.study.planning.stages import name_template

for stage, declared in STAGES.items():

    rule:
        name:
            declared.rule
        input:
            unpack(STAGE_FUNCTIONS.made_from(stage)),
            restored=restored(stage),
        output:
            *files(stage),
        log:
            f"{LOGS}/{declared.rule}/{name_template(stage)}.log",
        priority: STAGE_FUNCTIONS.priority(stage)
        conda:
            "../envs/study.yaml"
        threads: declared.threads
        resources:
            **STAGE_FUNCTIONS.gpus(stage),
            mem_mb=STAGE_FUNCTIONS.memory(stage),
            runtime=STAGE_FUNCTIONS.minutes(stage),
        params:
            job=STAGE_FUNCTIONS.job(stage),
            make=STAGE_FUNCTIONS.command(stage),
        shell:
            "{params.make} --job {params.job:q} --threads {threads} &> {log}"

    getattr(rules, declared.rule).rule.docstring = declared.about

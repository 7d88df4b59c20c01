# From images to measurements: one rule per stage, of one shape. What each reads, writes and needs is
# declared in diffusability/study/stages.py, and for metrics in diffusability/study/metrics.py.
from diffusability.study.fisher_toy import STAGE as TOY_STAGE
from diffusability.study.stages import name_template

for stage, declared in STAGES.items():
    if stage == TOY_STAGE:  # of a study of its own, see fisher.smk
        continue

    rule:
        name:
            declared.rule
        input:
            unpack(made_from(stage)),
            restored=restored(stage),
        output:
            *files(stage),
        log:
            f"{LOGS}/{declared.rule}/{name_template(stage)}.log",
        benchmark:
            f"{BENCHMARKS}/{declared.rule}/{name_template(stage)}.tsv"
        priority: priority(stage)
        conda:
            "../envs/study.yaml"
        threads: declared.threads
        resources:
            **gpus(stage),
            mem_mb=memory(declared.memory),
            runtime=minutes(stage, declared.minutes),
        params:
            job=job(stage),
            make=command(stage),
        shell:
            "{params.make} --job {params.job:q} --threads {threads} &> {log}"

    getattr(rules, declared.rule).rule.docstring = declared.about

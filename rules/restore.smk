# Evicted latents and samples (`diffusability gc --evict`) are made again by jobs of their own, when a
# job is to be made that reads them. What is finished is not looked at.
from diffusability.study.planning.stages import BULK, RESTORED

for stage in BULK:
    declared = STAGES[stage]
    restoring = f"restore_{stage}"

    rule:
        name:
            restoring
        input:
            unpack(STAGE_FUNCTIONS.made_from(stage)),
            restored=restored(stage),
            card=ancient(f"{path_template(stage)}/{CARD}"),
        output:
            f"{path_template(stage)}/{RESTORED}",
        log:
            f"{LOGS}/{restoring}/{name_template(stage)}.log",
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
            make=STAGE_FUNCTIONS.command(stage, " --restore"),
        shell:
            "{params.make} --job {params.job:q} --threads {threads} &> {log}"

    made = getattr(rules, restoring).rule
    made.docstring = f"Make evicted files of the stage `{stage}` again."
    if snakemake_adapter.starts_run(workflow):
        RESTORE[stage] = snakemake_adapter.make_checkpoint(made, checkpoints)

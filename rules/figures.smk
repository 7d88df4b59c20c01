# From tables to figures: one rule per figure; they differ only in its name.
from diffusability.study.planning.targets import figure_names

for figure in figure_names(STUDY):

    rule:
        name:
            f"draw_{figure}"
        input:
            TABLES,
        output:
            report(
                figure_files(STUDY, figure),
                caption=f"{CAPTIONS}/figures/{figure}.rst",
                category="Figures",
                subcategory=figure,
            ),
        log:
            f"{LOGS}/draw_{figure}/{STUDY.name}.log",
        conda:
            "../envs/study.yaml"
        threads: 1
        resources:
            mem_mb=memory(4000),
            runtime=fixed_minutes(30),
        params:
            study=study_options,
        shell:
            "python -m diffusability.script draw.py {params.study}"
            " --output {output} &> {log}"

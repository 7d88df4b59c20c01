# From measurements to tables, figures and the report: seconds, and minutes for 86 tokenizers.
# What is of generated images is left out of a study without diffusion models.
COLLECTED_NAMES = table_names(STUDY, COLLECTED_TABLES)
ANALYSED_NAMES = table_names(STUDY, ANALYSIS_TABLES)
COLLECTED = table_files(STUDY, *COLLECTED_NAMES)
ANALYSED = table_files(STUDY, *ANALYSED_NAMES)


rule tabulate:
    """Collect every measurement of the study, its trajectories and its spectra in tidy tables."""
    input:
        [f"{artifact.path}/measurements.json" for artifact in PLAN.measured],
        [f"{artifact.path}/samples.json" for artifact in PLAN.of_stage("samples")],
    output:
        *(
            report(path, caption=f"{CAPTIONS}/tables/{name}.rst", category="Tables")
            for name, path in zip(COLLECTED_NAMES, COLLECTED)
        ),
    log:
        f"{LOGS}/tabulate/{STUDY.name}.log",
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=fixed_minutes(30),
    params:
        study=study_options,
        fingerprint=PLAN.fingerprint,
    shell:
        "python -m diffusability.script tabulate_measurements.py {params.study}"
        " --fingerprint {params.fingerprint} --output {output} &> {log}"


rule regress:
    """Make every table of the analysis, with intervals, from the tidy tables alone."""
    input:
        COLLECTED,
    output:
        *(
            report(path, caption=f"{CAPTIONS}/tables/{name}.rst", category="Tables")
            for name, path in zip(ANALYSED_NAMES, ANALYSED)
        ),
    log:
        f"{LOGS}/regress/{STUDY.name}.log",
    conda:
        "../envs/study.yaml"
    threads: 2
    resources:
        mem_mb=memory(4000),
        runtime=fixed_minutes(240),
    params:
        study=study_options,
        analysis=STUDY.analysis.canonical_json(),
    shell:
        "python -m diffusability.script regress.py {params.study}"
        " --output {output} &> {log}"


if table_names(STUDY, [CLAIMS_TABLE]):

    rule check_claims:
        """Give a verdict on every claim of the papers."""
        input:
            COLLECTED,
            ANALYSED,
        output:
            report(
                table_files(STUDY, CLAIMS_TABLE),
                caption=f"{CAPTIONS}/tables/claims.rst",
                category="Tables",
            ),
        log:
            f"{LOGS}/check_claims/{STUDY.name}.log",
        conda:
            "../envs/study.yaml"
        threads: 1
        resources:
            mem_mb=memory(4000),
            runtime=fixed_minutes(30),
        params:
            study=study_options,
            claims=digest(CLAIMS, LATENT_CLAIMS),
        shell:
            "python -m diffusability.script check_claims.py {params.study}"
            " --output {output} &> {log}"


rule report:
    """Put headline, figures, pictures and tables on one page that opens offline."""
    input:
        tables=TABLES,
        figures=FIGURES,
        pictures=PICTURES,
    output:
        REPORT,
    log:
        f"{LOGS}/report/{STUDY.name}.log",
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=fixed_minutes(30),
    params:
        study=study_options,
    shell:
        "python -m diffusability.script report.py {params.study}"
        " --output {output} &> {log}"

# From measurements to tables, figures and the report. Everything here takes seconds.
MEASUREMENTS, CORRELATIONS = TABLES


rule tabulate:
    """Collect every measurement of the study in one tidy table."""
    input:
        [f"{artifact.path}/measurements.json" for artifact in PLAN.measured],
    output:
        report(MEASUREMENTS, caption="../report/measurements.rst", category="Tables"),
    log:
        f"{LOGS}/tabulate/{STUDY.name}.log",
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        study=STUDY_ARGUMENTS,
        fingerprint=PLAN.fingerprint,
    shell:
        "python scripts/tabulate_measurements.py {params.study} --fingerprint {params.fingerprint}"
        " --output {output} &> {log}"


rule regress:
    """Relate every latent metric to every generation metric, with intervals."""
    input:
        MEASUREMENTS,
    output:
        report(CORRELATIONS, caption="../report/correlations.rst", category="Tables"),
    log:
        f"{LOGS}/regress/{STUDY.name}.log",
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        study=STUDY_ARGUMENTS,
        analysis=STUDY.analysis.canonical_json(),
    shell:
        "python scripts/regress.py {params.study} --output {output} &> {log}"


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
        mem_mb=4000,
        runtime=30,
    params:
        study=STUDY_ARGUMENTS,
    shell:
        "python scripts/report.py {params.study} --output {output} &> {log}"

# From measurements to tables, figures and the report. Everything here takes seconds.
MEASUREMENTS, CORRELATIONS = TABLES


rule tabulate:
    """Collect every measurement of the study in one tidy table."""
    input:
        [f"{artifact.path}/measurements.json" for artifact in PLAN.measured],
    output:
        report(MEASUREMENTS, caption="../report/measurements.rst", category="Tables"),
    params:
        fingerprint=PLAN.fingerprint,
    log:
        f"{LOGS}/tabulate/{STUDY.name}.log",
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    shell:
        "python scripts/tabulate.py {STUDY_ARGUMENTS} --fingerprint {params.fingerprint}"
        " --output {output} &> {log}"


rule regress:
    """Relate every latent metric to every generation metric, with intervals."""
    input:
        MEASUREMENTS,
    output:
        report(CORRELATIONS, caption="../report/correlations.rst", category="Tables"),
    params:
        analysis=canonical_json(STUDY.analysis.canonical()),
    log:
        f"{LOGS}/regress/{STUDY.name}.log",
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        "python scripts/regress.py --measurements {input} --analysis {params.analysis:q}"
        " --output {output} &> {log}"


rule draw_perspectives:
    """Draw every headline metric against generation quality."""
    input:
        measurements=MEASUREMENTS,
        correlations=CORRELATIONS,
    output:
        report(
            figure_files(STUDY, "perspectives"),
            caption="../report/perspectives.rst",
            category="Figures",
        ),
    log:
        f"{LOGS}/draw_perspectives/{STUDY.name}.log",
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    shell:
        "python scripts/draw_perspectives.py --measurements {input.measurements}"
        " --correlations {input.correlations} --output {output} &> {log}"


rule draw_correlations:
    """Draw how strongly every metric goes with generation quality, and how sure that is."""
    input:
        correlations=CORRELATIONS,
    output:
        report(
            figure_files(STUDY, "correlations"),
            caption="../report/correlations.rst",
            category="Figures",
        ),
    log:
        f"{LOGS}/draw_correlations/{STUDY.name}.log",
    conda:
        "../envs/study.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    shell:
        "python scripts/draw_correlations.py --correlations {input.correlations}"
        " --output {output} &> {log}"


rule report:
    """Put headline, figures, pictures and tables on one page that opens offline."""
    input:
        tables=TABLES,
        figures=FIGURES,
        pictures=[
            report(f"{artifact.path}/{name}", caption="../report/pictures.rst", category="Pictures")
            for artifact, name in PICTURES
        ],
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
    shell:
        "python scripts/report.py {STUDY_ARGUMENTS} --output {output} &> {log}"

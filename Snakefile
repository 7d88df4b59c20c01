# The study as a workflow: which latent spaces do diffusion models learn well, and why?
#
#   snakemake -c2                                          the default study (config.yaml)
#   snakemake -c2 --configfile studies/smoke.yaml          another study
#   snakemake -n --config 'select={tokenizers: [conv-eq]}' a part of it, planned only
#   snakemake figures -c1                                  every figure, from the tables
#   snakemake fisher_toy -c2                               Fisher information on toy data, with verdicts on the paper's claims
#   snakemake --profile slurm                              on a cluster (slurm/config.yaml)
from snakemake.utils import min_version

min_version("9.20")


include: "rules/common.smk"
include: "rules/stages.smk"
include: "rules/restore.smk"
include: "rules/analysis.smk"
include: "rules/figures.smk"
include: "rules/fisher.smk"


report: f"{CAPTIONS}/workflow.rst"


rule all:
    default_target: True
    input:
        REPORT,


rule figures:
    input:
        FIGURES,


rule tables:
    input:
        TABLES,


rule fisher_toy:
    input:
        TOY_FIGURE_FILES,
        TOY_CLAIMS_TABLE,

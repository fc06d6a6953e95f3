"""The workflow of workflow/Snakefile, in the folder in which Snakemake also finds profiles/default."""


include: "workflow/Snakefile"


# An include leaves the default target to the file that includes.
workflow.default_target = "all"

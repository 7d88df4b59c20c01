"""From a study to artifacts: stages, the plan of all artifacts, tables, figures, targets."""

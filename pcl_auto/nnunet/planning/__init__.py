"""Run nnU-Net's planner with memory budgeted for labeled and unlabeled patches."""

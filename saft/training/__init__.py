"""Fine-tuning of one model on one task: options, the module, the trainer, the folder that is written."""

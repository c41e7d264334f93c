"""Fine-tuning with DeepSpeed ZeRO under Ray Train, and evaluation of the tuned model."""

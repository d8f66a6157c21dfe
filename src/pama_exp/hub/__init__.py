"""The Hugging Face Hub: what is there, what is cached, what is missing."""

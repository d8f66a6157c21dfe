"""The methods on a real pretrained model, compared: `python -m benchmarks.real_text`."""

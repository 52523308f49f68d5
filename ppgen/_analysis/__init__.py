"""Step 3: influences between choices and values, and soundness of derivatives."""

# SPDX-License-Identifier: Apache-2.0
"""What `moptcore demo` runs: examples/python/compress_image_classifier.py and what it shows."""

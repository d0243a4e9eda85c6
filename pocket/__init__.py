"""The pocket scale: a miniature FLUX stack in the same file formats as the real one."""

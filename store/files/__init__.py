"""The files of a trace: folder, layout, manifest, checksums, lock."""

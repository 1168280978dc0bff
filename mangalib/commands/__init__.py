"""The larger commands of ``mangalib``, a file each; heavy libraries are imported when a command runs."""

"""The larger commands of ``mangalib``, a file each; heavy libraries are imported when a command runs."""

from mangalib.commands.benchmark import benchmark, verdict
from mangalib.commands.cloud import cloud
from mangalib.commands.jobs import run_command, runs_command, schedule_command
from mangalib.commands.precompute import (
    cache_accuracy_command,
    cache_learn_command,
    catalogue_changed_command,
    hit_rate_command,
    transitions_command,
    warm_command,
)
from mangalib.commands.release import release
from mangalib.commands.running import running_service
from mangalib.commands.stack import chat, up

__all__ = ["COMMANDS", "running_service"]

COMMANDS = (
    up,
    chat,
    run_command,
    schedule_command,
    runs_command,
    cloud,
    benchmark,
    verdict,
    release,
    hit_rate_command,
    transitions_command,
    warm_command,
    catalogue_changed_command,
    cache_learn_command,
    cache_accuracy_command,
)

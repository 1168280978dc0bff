"""The larger commands of ``mangalib``, a file each; heavy libraries are imported when a command runs."""

from mangalib.commands.benchmark import benchmark, verdict
from mangalib.commands.cloud import cloud
from mangalib.commands.jobs import run_command, runs_command, schedule_command
from mangalib.commands.precompute import cache_accuracy, cache_learn, catalogue_changed, hit_rate, transitions, warm
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
    hit_rate,
    transitions,
    warm,
    catalogue_changed,
    cache_learn,
    cache_accuracy,
)

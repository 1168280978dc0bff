from . import cold_start as cold_start
from . import plots as plots
from . import tables as tables
from .laboratory import Laboratory as Laboratory
from .switches import switch_off as switch_off
from .switches import switches as switches

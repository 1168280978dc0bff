from .incidents import Incident as Incident
from .incidents import IncidentStore as IncidentStore
from .incidents import describe as describe
from .incidents import respond as respond
from .pagers import configured_pagers as configured_pagers
from .pagers import sns_client as sns_client
from .response import configured_actions as configured_actions
from .response import respond_to_verdict as respond_to_verdict

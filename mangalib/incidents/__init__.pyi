from . import actions as actions
from .actions import act_on as act_on
from .actions import pages_of as pages_of
from .actions import sns_client as sns_client
from .incidents import Incident as Incident
from .incidents import IncidentStore as IncidentStore
from .incidents import act as act
from .incidents import described as described

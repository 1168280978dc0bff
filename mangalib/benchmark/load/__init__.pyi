from .workload import Conversation as Conversation
from .workload import make_workload as make_workload
from .workload import questions_of as questions_of

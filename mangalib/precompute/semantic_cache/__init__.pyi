from .accuracy import Accuracy as Accuracy
from .accuracy import measure as measure
from .accuracy import read_questions as read_questions

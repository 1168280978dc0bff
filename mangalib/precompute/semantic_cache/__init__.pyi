from .accuracy import Accuracy as Accuracy
from .accuracy import measure_accuracy as measure_accuracy
from .accuracy import read_labelled_questions as read_labelled_questions

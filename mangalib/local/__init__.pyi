from .stack import Stack as Stack
from .stack import running_stack as running_stack

from .assembly import ServingResources as ServingResources
from .assembly import running_precompute as running_precompute
from .facts import publish_facts as publish_facts
from .generated_answer import SEMANTIC as SEMANTIC
from .generated_answer import GeneratedAnswer as GeneratedAnswer
from .shared_answers import SharedAnswers as SharedAnswers
from .shared_answers import own_label as own_label

from .check import Finding as Finding
from .check import check_account as check_account

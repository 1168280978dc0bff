from .check import check_account as check_account

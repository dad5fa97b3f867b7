"""The hook files, the service, and what AppArmor and network managers must let them do."""

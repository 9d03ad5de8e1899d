package ledger

func child(role, path string) int { return 0 }

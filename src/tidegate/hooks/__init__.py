"""What the gateway asks of addresses that its clients name: webhooks sent, files fetched. Guarded, bounded, in order."""

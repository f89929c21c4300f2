"""Webhook Event Subscription Pattern: sign, receive, publish and deliver events."""

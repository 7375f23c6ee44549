"""What an SRE opens: dashboards as code, rules with their tests, runbooks. `make dashboards` writes the JSON."""

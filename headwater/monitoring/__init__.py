"""What watches a project from outside: alert rules, their routing, scraping, dashboards, logs."""

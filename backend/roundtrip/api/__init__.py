"""HTTP: the public and the admin application, their routes, middlewares and listeners, and the table of statuses."""

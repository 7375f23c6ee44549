"""HTTP: public routes and admin routes."""

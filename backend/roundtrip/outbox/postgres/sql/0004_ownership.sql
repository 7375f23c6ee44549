-- Which node owns which link.
SELECT 1;

-- What nodes tell each other of their sockets.
SELECT 1;

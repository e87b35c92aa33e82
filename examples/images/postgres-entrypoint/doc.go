// Postgres-entrypoint is what the postgres image of examples/images starts with: it makes
// the database cluster the first time, with the variables and the directory of scripts that
// users of the registry's image know, and becomes the server.
//
//	POSTGRES_PASSWORD            password of the superuser; needed unless trust is chosen
//	POSTGRES_USER                name of the superuser (postgres)
//	POSTGRES_DB                  database to make (the user's name)
//	POSTGRES_INITDB_ARGS         arguments for initdb, split at white space
//	POSTGRES_INITDB_WALDIR       directory of the write-ahead log
//	POSTGRES_HOST_AUTH_METHOD    for connections from other hosts (what password_encryption says)
//	PGDATA                       directory of the data
//
// Each of the first five can be given as NAME_FILE, the path of a file that holds it. As
// root it makes the directories over to the user postgres and goes on as that user; started
// as another user it stays that one. It starts no goroutine. Secrets reach the programs it
// runs in files and on standard input, never in arguments.
package main

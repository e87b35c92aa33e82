// Answers with how many voters of postgres' table "votes" chose what.
const http = require('http');
const { Pool } = require('pg');

const pool = new Pool({ connectionString: 'postgres://postgres:postgres@db/postgres' });
pool.on('error', (e) => console.error('db is gone:', e.message));

const server = http.createServer(async (req, res) => {
  try {
    const rows = (await pool.query('SELECT vote, COUNT(id) AS count FROM votes GROUP BY vote')).rows;
    const votes = { a: 0, b: 0 };
    for (const row of rows) votes[row.vote] = Number(row.count);
    res.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(votes) + '\n');
  } catch (e) {
    res.writeHead(503).end(e.message + '\n');
  }
});
server.listen(process.env.PORT || 4000, () => console.log('App running on port ' + server.address().port));
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(0));

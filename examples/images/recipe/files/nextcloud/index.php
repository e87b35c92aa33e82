<?php
// Stands in for Nextcloud where its image is not to be had. It uses what the image's
// environment points at as that does: the database for names, the volume for content, redis
// for locks. POST name=…&text=… keeps a file, GET lists them, /status.php says all is well.
function setting(string $name): string {
	$file = getenv("{$name}_FILE");
	return trim($file ? file_get_contents($file) : (string) getenv($name));
}

function database(): PDO {
	foreach (['MYSQL' => 'mysql', 'POSTGRES' => 'pgsql'] as $prefix => $driver) {
		if (setting("{$prefix}_HOST") !== '') {
			[$host, $port] = explode(':', setting("{$prefix}_HOST")) + [1 => $driver === 'mysql' ? '3306' : '5432'];
			$source = "$driver:host=$host;port=$port;dbname=" . setting("{$prefix}_" . ($driver === 'mysql' ? 'DATABASE' : 'DB'));
			return new PDO($source, setting("{$prefix}_USER"), setting("{$prefix}_PASSWORD"), [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
		}
	}
	throw new RuntimeException('neither MYSQL_HOST nor POSTGRES_HOST is set');
}

function locked(callable $change): void {
	if (setting('REDIS_HOST') === '') {
		$change();
		return;
	}
	$redis = new Redis();
	$redis->connect(setting('REDIS_HOST'), (int) (setting('REDIS_HOST_PORT') ?: 6379), 10);
	if (!$redis->set('lock', '1', ['nx', 'ex' => 60])) {
		throw new RuntimeException('somebody else is writing');
	}
	$change();
	$redis->del('lock');
}

header('Content-Type: text/plain; charset=utf-8');
try {
	$db = database();
	$db->exec('CREATE TABLE IF NOT EXISTS oc_files (name VARCHAR(100) PRIMARY KEY, bytes INT)');
	if (basename($_SERVER['SCRIPT_NAME']) === 'status.php') {
		echo json_encode(['installed' => true, 'maintenance' => false, 'needsDbUpgrade' => false, 'productname' => 'stand-in']), "\n";
	} elseif ($_SERVER['REQUEST_METHOD'] === 'POST') {
		locked(function () use ($db) {
			file_put_contents(__DIR__ . '/data/' . sha1($_POST['name']), $_POST['text']);
			$db->prepare('DELETE FROM oc_files WHERE name = ?')->execute([$_POST['name']]);
			$db->prepare('INSERT INTO oc_files VALUES (?, ?)')->execute([$_POST['name'], strlen($_POST['text'])]);
		});
		echo "kept\n";
	} else {
		foreach ($db->query('SELECT name, bytes FROM oc_files ORDER BY name') as $row) {
			echo $row['name'], ' ', $row['bytes'], ': ', file_get_contents(__DIR__ . '/data/' . sha1($row['name'])), "\n";
		}
	}
} catch (Throwable $e) {
	http_response_code(503);
	echo $e->getMessage(), "\n";
}

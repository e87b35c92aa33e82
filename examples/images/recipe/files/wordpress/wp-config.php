<?php
// The configuration comes from WORDPRESS_ variables; one with _FILE names a file.
function container_setting(string $name, string $default): string {
	$file = getenv("WORDPRESS_{$name}_FILE");
	if ($file !== false && $file !== '') {
		return rtrim(file_get_contents($file), "\r\n");
	}
	$value = getenv("WORDPRESS_$name");
	return $value === false ? $default : $value;
}

define('DB_NAME', container_setting('DB_NAME', 'wordpress'));
define('DB_USER', container_setting('DB_USER', 'example username'));
define('DB_PASSWORD', container_setting('DB_PASSWORD', 'example password'));
define('DB_HOST', container_setting('DB_HOST', 'mysql'));
define('DB_CHARSET', container_setting('DB_CHARSET', 'utf8mb4'));
define('DB_COLLATE', container_setting('DB_COLLATE', ''));
foreach (['AUTH', 'SECURE_AUTH', 'LOGGED_IN', 'NONCE'] as $kind) {
	foreach (['KEY', 'SALT'] as $part) {
		define("{$kind}_$part", container_setting("{$kind}_$part", hash('sha256', DB_PASSWORD . "$kind $part")));
	}
}
$table_prefix = container_setting('TABLE_PREFIX', 'wp_');
define('WP_DEBUG', container_setting('DEBUG', '') !== '');

// Behind a proxy that ends TLS.
if (strpos($_SERVER['HTTP_X_FORWARDED_PROTO'] ?? '', 'https') !== false) {
	$_SERVER['HTTPS'] = 'on';
}

if (!defined('ABSPATH')) {
	define('ABSPATH', __DIR__ . '/');
}
require_once ABSPATH . 'wp-settings.php';

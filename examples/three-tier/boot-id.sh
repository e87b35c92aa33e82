#!/bin/sh
# Run by the image before nginx starts. A copy, because nginx serves no file of size 0,
# which is what /proc says of all of its own.
exec cp /proc/sys/kernel/random/boot_id /run/boot-id

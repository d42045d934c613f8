#!/bin/sh
# Stands in for the program that compiles: whatever it is given becomes more code than a host keeps in memory.
exec head -c 270000000 /dev/zero

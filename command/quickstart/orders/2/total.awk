# Adds up prices such as 19.99, one a line. Prints cents.
{ sum += int($1 * 100) }
END { printf "%d\n", sum }

# Adds up prices, one a line. Prints cents.
{ sum += $1 }
END { printf "%d\n", sum }

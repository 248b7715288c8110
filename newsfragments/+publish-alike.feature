Publishing costs half as much where the route and the sizes are those of the message before.

``async with await connect(...) as connection`` closes the connection at the end of its block.

"""Opens connections to Redis with redis-py, and never looks at them again.

usage: pool.py PORT COUNT
"""
import sys
import time

import redis

port, count = int(sys.argv[1]), int(sys.argv[2])
pool = redis.ConnectionPool(host="127.0.0.1", port=port, max_connections=count)
taken = [pool.get_connection() for _ in range(count)]
time.sleep(1e6)

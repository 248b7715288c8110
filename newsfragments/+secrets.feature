``ExpiringCredentials`` fetches a secret, such as an OAuth 2 token, for each connection, and ``SecretRefresh`` renews it before it expires.

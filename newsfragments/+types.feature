Type checkers without a plugin for ``zope.interface``, such as pyright, accept the library's own credentials, reactors and services where a signature asks for an interface.

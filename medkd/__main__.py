from medkd.cli.app import main

main()
